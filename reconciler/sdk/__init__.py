"""The only door for connectors: contract, HTTP, authentication, paging, budgets, templates."""
