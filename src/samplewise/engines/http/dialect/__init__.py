"""The OpenAI protocol as servers really speak it: request bodies, replies, refused fields, fatal errors."""
