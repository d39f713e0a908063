"""What a person can set: one frozen schema per feature word, and how text becomes one."""
