"""Inbox: events that are delivered at least once are counted once, however late the second delivery comes."""

import merganser as mg
from connectors.shop import orders

flow = mg.Flow("inbox")

inbox = flow.read(orders).deduplicate()  # by event_id, the source's id; without within= no id is ever forgotten

inbox.filter("type = 'PaymentCaptured'").group_by().aggregate(payments="count(*)", money="sum(amount)").materialize("takings")
