"""`fastserve deploy`: from an application in YAML to a Dockerfile, a compose file or Kubernetes manifests.

Read: schema (what the YAML may say), yaml_lines and application (read it; what is wrong, by line), checks (what cannot
be), commands (the command line of each process), docker, compose, kubernetes and local (the four forms), output (files
of ours in a folder), service and ask (start, stop and test the local form), fetch (a model once into a shared folder;
runs where it is deployed).
"""
