"""What a decoder remembers of the texts that it reads and writes."""
