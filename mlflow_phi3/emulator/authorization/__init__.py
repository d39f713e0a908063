"""Who may do what: the actions of roles, and requests held against them."""
