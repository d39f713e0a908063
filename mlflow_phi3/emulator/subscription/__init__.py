"""What a subscription has: quota, machine types, resource providers."""
