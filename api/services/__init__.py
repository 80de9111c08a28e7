"""What clients may do, whichever way they ask: through an endpoint, on the console, or several at once."""
