"""CQRS: one write model, and projections of it that are made, asked and rebuilt each for itself."""

import merganser as mg
from connectors.shop import order_events

desk = mg.Flow("desk")

(
    desk.read(order_events)
    .group_by("originator_id")
    .aggregate(
        order_id="max(order_id)",
        last_event="arg_max(event_type, notification_id)",
        at="arg_max(timestamp, notification_id)",
    )
    .materialize("desk_orders")
)

books = mg.Flow("books")

(
    books.read(order_events)
    .filter("event_type IN ('Order.Paid', 'Order.Refunded')")
    .derive(money="if(event_type = 'Order.Paid', amount, -amount)")
    .window(mg.tumbling("1 hour"))
    .aggregate(taken="sum(money)", payments="count(*)")
    .materialize("takings_per_hour")
)


def cancel(shop, views, order_id, reason):
    """A command, and what the desk shows afterwards: it has waited for what it wrote."""
    notification = shop.cancel(order_id, reason)
    views.wait_for({"order_events": notification})
    return views.sql(f"SELECT last_event FROM desk_orders WHERE originator_id = '{shop.order(order_id).id}'").fetchall()
