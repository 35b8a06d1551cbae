"""Requests by the batch API: collected into a file, submitted, polled, fetched; found again after a kill."""
