"""A whole deployment on one machine, as somebody runs it: topics, a service and its producer as `freshet` commands."""
