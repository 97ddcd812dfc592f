"""Recipes on hypernetworks: learned best responses."""
