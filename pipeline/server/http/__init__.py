"""HTTP connections and bodies, who may ask, and what is refused."""
