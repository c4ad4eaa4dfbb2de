"""JSON in and out of typed data: decoding, schemas and secrets."""
