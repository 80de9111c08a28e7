"""Looking at databases: which there are, how they are used, who holds one up. Nothing is changed here."""
