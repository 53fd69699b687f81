"""Incoming webhooks: what one is, how a delivery is checked, and the event that it becomes. Knows nothing of HTTP's framework.

definition  what users say of a webhook, checked
signatures  whether a delivery comes from who it says
bodies      what it carries
deliveries  from a delivery to an event
directory   the webhooks of the record, cached, with their secrets open
refusals    why deliveries were refused lately
"""
