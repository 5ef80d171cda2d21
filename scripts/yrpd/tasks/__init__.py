"""The product's commands, one module a namespace: tables of name, options and the function that does the work."""
