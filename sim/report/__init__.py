"""What is made of finished runs: run (the data), table, document (JSON and files), plot and style, provenance."""
