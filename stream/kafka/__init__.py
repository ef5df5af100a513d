"""The live log: Apache Kafka in, Apache Kafka out. Nothing outside imports a Kafka library."""
