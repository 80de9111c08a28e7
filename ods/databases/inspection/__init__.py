"""Looking at databases: which there are, and how they are used. Nothing is changed here."""
