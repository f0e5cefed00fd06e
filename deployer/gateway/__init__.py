"""The gateway: asks for the key, answers for the model's name, streams everything else through.

It imports nothing of the rest of `deployer`: the image holds this folder alone.
"""
