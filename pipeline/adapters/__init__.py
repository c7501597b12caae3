"""The adapters that ship with the default model, and the recipe that trains them."""
