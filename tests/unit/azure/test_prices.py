"""Prices of today, from a server that answers as Microsoft's price list does."""

import datetime as dt
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest

from mlflow_phi3.azure.prices import look_up_hourly
from mlflow_phi3.errors import AzureError

TODAY = dt.date(2026, 2, 3)


def item(price, since, **more):
    return {
        "retailPrice": price,
        "effectiveStartDate": f"{since}T00:00:00Z",
        "unitOfMeasure": "1 Hour",
        "productName": "Virtual Machines NCadsA100v4 Series",
        "skuName": "NC24ads A100 v4",
        "meterName": "NC24ads A100 v4",
        **more,
    }


ITEMS = [
    item(4.0, "2023-01-01"),
    item(3.5, "2025-01-01"),
    item(0.9, "2026-01-01", skuName="NC24ads A100 v4 Spot"),
    item(9.0, "2026-01-01", productName="Virtual Machines NCadsA100v4 Series Windows"),
    item(2500.0, "2026-01-01", unitOfMeasure="1/Month"),
]


@pytest.fixture
def price_list():
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(parse_qs(urlparse(self.path).query)["$filter"][0])
            items = ITEMS if "'eastus2'" in asked[-1] else []
            body = b"<html>" if "broken" in self.path else json.dumps({"Items": items}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/prices", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_newest_plain_price_with_its_date_and_source(price_list):
    api, asked = price_list
    found = look_up_hourly("Standard_NC24ads_A100_v4", "eastus2", TODAY, api=api)
    assert (found.usd_per_hour, found.as_of) == (3.5, "2026-02-03")
    assert "since 2025-01-01" in found.source
    assert "armSkuName eq 'Standard_NC24ads_A100_v4'" in asked[0]
    assert look_up_hourly("Standard_NC24ads_A100_v4", "nowhere", TODAY, api=api) is None


def test_no_price_list(price_list):
    api, _ = price_list
    for address in (f"{api}/broken", "http://127.0.0.1:1/"):
        with pytest.raises(AzureError, match=r"PHI3-A722.*hosting_usd_per_hour"):
            look_up_hourly("Standard_DS3_v2", "eastus2", TODAY, api=address)
