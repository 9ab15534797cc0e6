"""PaddleX's self-hosted API: what its clients send, and answers in its form."""
