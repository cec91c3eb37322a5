"""What the tests share: real servers, worker processes, and one text for sync and async."""
