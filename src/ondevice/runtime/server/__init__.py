"""A server for the applications that people have: the wire format of OpenAI's API over the engine."""
