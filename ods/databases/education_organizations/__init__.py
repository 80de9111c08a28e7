"""The education organizations that an ODS database holds."""
