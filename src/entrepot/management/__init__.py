"""The control plane: Azure's management API and Entrepot.Access over one store of resources."""
