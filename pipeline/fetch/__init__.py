"""Where models and adapters come from, and the cache of what was made of them."""
