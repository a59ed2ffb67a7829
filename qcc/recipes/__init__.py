"""Named recipes as YAML and the model that validates them."""
