"""What roles may do on the ODS server, and within its databases."""
