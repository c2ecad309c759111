"""The rules: one topic a module, each a mixin of `StoreConformance`. The docstring of a rule says where to look if it fails."""
