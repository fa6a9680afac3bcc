package fedclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"weft/matrix/id"
)

const (
	// MaxPDUs and MaxEDUs bound a transaction.
	//
	// spec: server-server §5 (transactions)
	MaxPDUs = 50
	MaxEDUs = 100

	transactionTimeout = time.Minute
)

// Transaction is a batch of PDUs and EDUs for one server.
type Transaction struct {
	ID             string
	OriginServerTS int64
	PDUs           []json.RawMessage
	// EDUs are objects of edu_type and content.
	EDUs []json.RawMessage
}

// SendTransaction pushes a transaction. It returns, per event ID, what the
// server found wrong with a PDU; an empty map when all were taken.
//
// It tries even when the server failed a moment ago: the caller has a durable
// backoff of its own.
//
// spec: server-server §5, PUT /_matrix/federation/v1/send/{txnId}
func (c *Client) SendTransaction(ctx context.Context, server id.Server, t Transaction) (map[id.Event]string, error) {
	if len(t.PDUs) > MaxPDUs || len(t.EDUs) > MaxEDUs {
		return nil, fmt.Errorf("fedclient: a transaction of %d PDUs and %d EDUs is too large", len(t.PDUs), len(t.EDUs))
	}
	if t.PDUs == nil {
		t.PDUs = []json.RawMessage{}
	}
	body := struct {
		Origin         id.Server         `json:"origin"`
		OriginServerTS int64             `json:"origin_server_ts"`
		PDUs           []json.RawMessage `json:"pdus"`
		EDUs           []json.RawMessage `json:"edus,omitempty"`
	}{c.cfg.ServerName, t.OriginServerTS, t.PDUs, t.EDUs}
	var out struct {
		PDUs map[id.Event]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	err := c.DoJSON(ctx, Request{
		Destination: server, Method: http.MethodPut, Body: body, SkipCircuit: true, Timeout: transactionTimeout,
		Path: path(federationV1+"/send", nil, t.ID), MaxResponse: 2 << 20,
	}, &out)
	if err != nil {
		return nil, err
	}
	failed := map[id.Event]string{}
	for e, res := range out.PDUs {
		if res.Error != "" {
			failed[e] = res.Error
		}
	}
	return failed, nil
}
