"""A wire between the browser and the server that can be cut, and that knows when the browser hangs up."""

import socket
import threading
from urllib.parse import urlsplit


class Proxy:
    def __init__(self, server):
        parts = urlsplit(server)
        self.server = (parts.hostname, parts.port)
        self.listener = None
        self.port = 0
        self.open = set()  # sockets to the browser
        self.lock = threading.Lock()
        self.hung_up = threading.Event()  # the browser ended a connection before the server did
        self.mend()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def mend(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def cut(self):
        """As if the server's process ended."""
        # A thread that waits in accept keeps the port, unless it is woken.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for connection in self.open:
                shut(connection)

    def accept(self, listener):
        while True:
            try:
                browser, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.server)
            except OSError:
                browser.close()
                continue
            with self.lock:
                self.open.add(browser)
            threading.Thread(target=self.pass_on, args=(browser, server, True), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(server, browser, False), daemon=True).start()

    def pass_on(self, source, sink, of_browser):
        try:
            while received := source.recv(1 << 16):
                sink.sendall(received)
            ended = True
        except OSError:
            ended = of_browser
        if of_browser and ended:
            self.hung_up.set()
        with self.lock:
            self.open.discard(source)
        shut(source)
        shut(sink)


def shut(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
