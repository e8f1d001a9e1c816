"""The shapes of requests and answers of the API, from which its OpenAPI document is made: of the server and of clients."""
