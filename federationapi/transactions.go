package federationapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/tidwall/gjson"

	"weft/internal/fedclient"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

// inboundEDU is an EDU of a transaction.
type inboundEDU struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// inboundTxn is the body of /send. Its parts are read one by one, so that one
// that is malformed does not spoil the others.
type inboundTxn struct {
	PDUs []json.RawMessage `json:"pdus"`
	EDUs []json.RawMessage `json:"edus"`
}

// parseTransaction reads the body of /send and checks its bounds.
//
// spec: server-server §4 ("at most 50 PDUs and 100 EDUs")
func parseTransaction(body []byte) (inboundTxn, error) {
	var t inboundTxn
	if err := json.Unmarshal(body, &t); err != nil {
		var typeErr *json.UnmarshalTypeError
		switch {
		case errors.As(err, &typeErr) && typeErr.Field != "":
			return t, merr.BadJSON("%s is a JSON %s", typeErr.Field, typeErr.Value)
		case errors.As(err, &typeErr):
			return t, merr.BadJSON("the body must be a JSON object")
		}
		return t, merr.NotJSON("the body is no JSON: %v", err)
	}
	if len(t.PDUs) > fedclient.MaxPDUs {
		return t, merr.BadJSON("%d PDUs; a transaction has at most %d", len(t.PDUs), fedclient.MaxPDUs)
	}
	if len(t.EDUs) > fedclient.MaxEDUs {
		return t, merr.BadJSON("%d EDUs; a transaction has at most %d", len(t.EDUs), fedclient.MaxEDUs)
	}
	return t, nil
}

// SendTransaction takes a transaction of another server. PDUs are durable when
// it answers. An EDU that its owner refuses is logged and dropped, as the
// answer has no place for it; one that could not be stored fails the
// transaction, so that it comes again.
//
// spec: server-server §4, PUT /_matrix/federation/v1/send/{txnId}
func (s *Server) SendTransaction(ctx context.Context, r *httpapi.Request) (any, error) {
	txnID := r.Vars["txnId"]
	t, err := parseTransaction(r.Body)
	if err != nil {
		return nil, err
	}
	release, err := s.inTxns.enter(ctx, r.Origin, txnID)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := s.dispatchEDUs(ctx, r.Origin, t.EDUs); err != nil {
		return nil, err
	}
	results, err := s.Rooms.ReceiveTransaction(ctx, roomapi.Transaction{Origin: r.Origin, TxnID: txnID, PDUs: t.PDUs})
	if err != nil {
		return nil, err
	}
	type result struct {
		Error string `json:"error,omitempty"`
	}
	pdus := make(map[id.Event]result, len(results))
	for e, msg := range results {
		pdus[e] = result{Error: msg}
	}
	return map[string]any{"pdus": pdus}, nil
}

// dispatchEDUs hands each EDU to the component that owns its type.
func (s *Server) dispatchEDUs(ctx context.Context, origin id.Server, edus []json.RawMessage) error {
	for _, raw := range edus {
		var edu inboundEDU
		err := json.Unmarshal(raw, &edu)
		if err != nil {
			err = merr.BadJSON("the EDU is malformed: %v", err)
		} else {
			err = s.dispatchEDU(ctx, origin, edu)
		}
		var refused *merr.Error
		if errors.As(err, &refused) && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusTooManyRequests {
			s.Log.WithError(err).WithField("origin", origin).WithField("type", edu.Type).Info("an EDU was refused")
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) dispatchEDU(ctx context.Context, origin id.Server, edu inboundEDU) error {
	switch edu.Type {
	case "m.typing":
		roomID := id.Room(gjson.GetBytes(edu.Content, "room_id").Str)
		if ok, err := s.mayTakePart(ctx, origin, roomID); !ok || err != nil {
			return err
		}
		return s.Sync.ReceiveEDU(ctx, origin, edu.Type, edu.Content)
	case "m.receipt":
		content, err := s.allowedReceipts(ctx, origin, edu.Content)
		if err != nil || content == nil {
			return err
		}
		return s.Sync.ReceiveEDU(ctx, origin, edu.Type, content)
	case "m.presence":
		return s.Sync.ReceiveEDU(ctx, origin, edu.Type, edu.Content)
	case "m.device_list_update", "m.signing_key_update":
		return s.Keys.ReceiveEDU(ctx, origin, edu.Type, edu.Content)
	case "m.direct_to_device":
		return s.ToDevice.ReceiveToDevice(ctx, origin, edu.Content)
	}
	s.Log.WithField("type", edu.Type).Debug("an EDU of an unknown type was dropped")
	return nil
}

// maxReceiptRooms bounds the rooms of one m.receipt.
const maxReceiptRooms = 1000

// allowedReceipts leaves out the receipts of rooms whose ACL shuts the server
// out; nil when none are left.
//
// spec: server-server §26 ("all receipts for a particular room ID MUST be ignored …")
func (s *Server) allowedReceipts(ctx context.Context, origin id.Server, content json.RawMessage) (json.RawMessage, error) {
	var rooms map[id.Room]json.RawMessage
	if err := json.Unmarshal(content, &rooms); err != nil {
		return nil, merr.BadJSON("the content of m.receipt is malformed: %v", err)
	}
	if len(rooms) > maxReceiptRooms {
		return nil, merr.TooLarge("receipts of more than %d rooms", maxReceiptRooms)
	}
	all := len(rooms)
	for room := range rooms {
		ok, err := s.mayTakePart(ctx, origin, room)
		if err != nil {
			return nil, err
		}
		if !ok {
			delete(rooms, room)
		}
	}
	switch len(rooms) {
	case all:
		return content, nil
	case 0:
		return nil, nil
	}
	return json.Marshal(rooms)
}

// txnGate lets one transaction of a server in at a time with the same ID: a
// repetition waits for the first to end, and is answered from what it stored.
type txnGate struct{ state *gateState }

type gateState struct {
	mu      sync.Mutex
	running map[string]chan struct{}
}

func newTxnGate() txnGate { return txnGate{&gateState{running: map[string]chan struct{}{}}} }

func (g txnGate) enter(ctx context.Context, origin id.Server, txnID string) (release func(), err error) {
	key := string(origin) + "\x00" + txnID
	for {
		g.state.mu.Lock()
		first, busy := g.state.running[key]
		if !busy {
			done := make(chan struct{})
			g.state.running[key] = done
			g.state.mu.Unlock()
			return func() {
				g.state.mu.Lock()
				delete(g.state.running, key)
				g.state.mu.Unlock()
				close(done)
			}, nil
		}
		g.state.mu.Unlock()
		select {
		case <-first:
		case <-ctx.Done():
			return nil, merr.LimitExceeded("the same transaction is being processed")
		}
	}
}
