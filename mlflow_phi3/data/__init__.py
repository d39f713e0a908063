"""From files to examples: read, check, clean, split, tokenise, describe."""
