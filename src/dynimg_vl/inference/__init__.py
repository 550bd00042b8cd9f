"""Many questions at once: requests, the engines that answer them, and runs that can be stopped and continued."""
