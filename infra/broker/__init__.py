"""A real Apache Kafka as a child process, from jars: to play with, to test and to measure against."""
