# A server for the Complement conformance suite:
#   make conformance-image
#   COMPLEMENT_BASE_IMAGE=weft-conformance go test ./tests/...   (in Complement)
#
# The image holds one static binary and no shell, so the binary itself signs its
# certificate and configures itself (cmd/weft/conformance.go). Data lies in the
# container, not in a volume: it survives a stop and a start, and is gone with
# the container.
FROM scratch
COPY build/weft /weft
WORKDIR /tmp
WORKDIR /complement/appservice
WORKDIR /complement/ca
WORKDIR /data
ENV SERVER_NAME=localhost
EXPOSE 8008 8448
HEALTHCHECK --interval=1s --timeout=5s --start-period=1s --retries=60 CMD ["/weft", "healthcheck", "--url", "http://127.0.0.1:8008/_matrix/client/versions"]
ENTRYPOINT ["/weft", "conformance"]
