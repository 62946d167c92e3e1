#!/bin/sh
# Installs the outside programs that the tests marked `real` run: Debian's package `prometheus`,
# which has the server and promtool. Says what is missing where it cannot; never fails.
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
  exit 0
fi
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -qq -y --no-install-recommends prometheus >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends prometheus >/dev/null; }
fi
if ! command -v promtool >/dev/null; then
  echo 'Missing: prometheus and promtool, without which some tests are skipped.' >&2
  echo 'Debian, Ubuntu: sudo apt-get install prometheus. Others: https://prometheus.io/download/' >&2
fi
exit 0
