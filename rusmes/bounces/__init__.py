"""What comes back: reports of other servers and of their users, what they mean, and the addresses they come back to."""
