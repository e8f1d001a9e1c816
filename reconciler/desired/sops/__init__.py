"""SOPS files: ciphertext in Git in, clear trees with `Secret` leaves out, and back again for the command line."""
