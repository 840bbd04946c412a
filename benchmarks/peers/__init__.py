"""What the service is compared with: each peer a short, fair program of its own, started with an address."""
