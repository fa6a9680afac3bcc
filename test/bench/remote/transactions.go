package remote

import (
	"encoding/json"

	"github.com/tidwall/gjson"

	"weft/internal/fedclient"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// receiveTransaction takes events and EDUs of a server under test. Each event is
// checked as any server does: form and hash, signatures, authorisation against the
// state before it. EDUs are counted.
//
// An event whose parents are not known is refused: they can only be the server's own,
// which it has to send first.
//
// spec: server-server §4, PUT /_matrix/federation/v1/send/{txnId}
func (s *Server) receiveTransaction(r *request) (any, error) {
	var txn struct {
		PDUs []json.RawMessage `json:"pdus"`
		EDUs []struct {
			Type string `json:"edu_type"`
		} `json:"edus"`
	}
	if err := r.decode(&txn); err != nil {
		return nil, err
	}
	if len(txn.PDUs) > fedclient.MaxPDUs || len(txn.EDUs) > fedclient.MaxEDUs {
		return nil, merr.BadJSON("%d PDUs and %d EDUs are too many for a transaction", len(txn.PDUs), len(txn.EDUs))
	}
	s.traffic.mu.Lock()
	for _, edu := range txn.EDUs {
		s.traffic.edus[edu.Type]++
	}
	s.traffic.mu.Unlock()
	results := make(map[id.Event]map[string]string, len(txn.PDUs))
	for _, raw := range txn.PDUs {
		eventID, err := s.receive(r, raw)
		if err != nil {
			s.traffic.problem("event %s in a transaction of %s: %v", eventID, r.origin, err)
		}
		switch {
		case eventID == "": // it has no ID to answer for
		case err != nil:
			results[eventID] = map[string]string{"error": err.Error()}
		default:
			results[eventID] = map[string]string{}
		}
	}
	return map[string]any{"pdus": results}, nil
}

// receive takes one event.
func (s *Server) receive(r *request, raw json.RawMessage) (id.Event, error) {
	roomID := id.Room(gjson.GetBytes(raw, "room_id").Str)
	room := s.room(roomID)
	if room == nil {
		return "", merr.NotFound("the room %s is not known here", roomID)
	}
	e, err := event.Parse(raw, room.rules)
	if err != nil {
		return "", err
	}
	if e.Redacted() {
		return e.ID, merr.BadJSON("the content hash is wrong")
	}
	if room.has(e.ID) {
		return e.ID, nil // the same event comes for each of the server's names
	}
	if err := s.verify(r.Context(), e); err != nil {
		return e.ID, err
	}
	room.mu.Lock()
	defer room.mu.Unlock()
	_, err = room.link(e)
	return e.ID, err
}

func (r *Room) has(eventID id.Event) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.events.index[eventID]
	return ok
}
