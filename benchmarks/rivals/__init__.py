"""What the service is measured beside, each a program of its own on INVOICES_PORT."""
