"""The stages between a folder of photographs and a served answer, one room each."""
