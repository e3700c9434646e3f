"""A small model server for development: TF Serving's REST and gRPC, without TF Serving."""
