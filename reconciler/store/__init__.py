"""What must survive: tables, migrations, queries. The only room with SQL."""
