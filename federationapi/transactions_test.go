package federationapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"weft/internal/fedclient"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
)

func (s *site) send(origin id.Server, txn, body string) answer {
	s.t.Helper()
	return s.do(origin, http.MethodPut, v1+"/send/"+txn, body)
}

func TestTransaction(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		s.parts.txn = func(roomapi.Transaction) (map[id.Event]string, error) {
			return map[id.Event]string{"$good": "", "$bad": "refused"}, nil
		}
		s.send(one, "t1", `{"origin":"one.example","origin_server_ts":1,"pdus":[{"a":1},{"b":2}]}`).
			is(`{"pdus":{"$bad":{"error":"refused"},"$good":{}}}`)
		got := s.parts.txns[0]
		if got.Origin != one || got.TxnID != "t1" || len(got.PDUs) != 2 || string(got.PDUs[1]) != `{"b":2}` {
			t.Errorf("the room server got %+v", got)
		}
		if s.net.alive[one] != 1 {
			t.Error("nobody was told that the server was heard of")
		}
		s.parts.txn = nil
		s.send(one, "t2", `{}`).is(`{"pdus":{}}`)
		list := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("{},", n), ",") + "]" }
		s.send(one, "t3", `{"pdus":`+list(50)+`,"edus":`+list(100)+`}`).is(`{"pdus":{}}`)
		before := len(s.parts.txns)
		for body, code := range map[string]string{
			`{"pdus":` + list(51) + `}`:            "M_BAD_JSON",
			`{"pdus":[],"edus":` + list(101) + `}`: "M_BAD_JSON",
			`{"pdus":{}}`:                          "M_BAD_JSON",
			`{"edus":"x"}`:                         "M_BAD_JSON",
			`[]`:                                   "M_BAD_JSON",
			`{"pdus":[`:                            "M_NOT_JSON",
			``:                                     "M_NOT_JSON",
			`{"pdus":[]} {}`:                       "M_NOT_JSON",
			strings.Repeat(`{"pdus":`, 20_000) + "{}": "M_NOT_JSON",
		} {
			s.send(one, "t4", body).fails(http.StatusBadRequest, code)
		}
		s.send(one, "t5", `{"pdus":["`+strings.Repeat("x", maxJSONBody)+`"]}`).fails(http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
		if len(s.parts.txns) != before {
			t.Error("the room server got a transaction that is malformed")
		}
		s.parts.txn = func(roomapi.Transaction) (map[id.Event]string, error) { return nil, errors.New("disk full") }
		s.send(one, "t6", `{"pdus":[{}]}`).fails(http.StatusInternalServerError, "M_UNKNOWN")
	})
}

func TestEDUsReachTheirOwners(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		r := s.newRoom(alice, oscar)
		edu := func(typ, content string) string { return `{"edu_type":"` + typ + `","content":` + content + `}` }
		all := []string{
			edu("m.typing", `{"room_id":"`+string(r.id)+`","user_id":"@oscar:one.example","typing":true}`),
			edu("m.receipt", `{"`+string(r.id)+`":{"m.read":{}}}`),
			edu("m.presence", `{"push":[]}`),
			edu("m.device_list_update", `{"a":1}`),
			edu("m.signing_key_update", `{"b":2}`),
			edu("m.direct_to_device", `{"c":3}`),
		}
		want := []string{
			`m.typing {"room_id":"` + string(r.id) + `","user_id":"@oscar:one.example","typing":true}`,
			`m.receipt {"` + string(r.id) + `":{"m.read":{}}}`,
			`m.presence {"push":[]}`, `m.device_list_update {"a":1}`, `m.signing_key_update {"b":2}`, `m.direct_to_device {"c":3}`,
		}
		odd := []string{edu("org.example.unknown", `{}`), `{"edu_type":7}`, `null`, `"x"`, `{}`, edu("m.receipt", `[]`), edu("m.receipt", `7`)}
		body := `{"pdus":[{"a":1}],"edus":[` + strings.Join(append(odd, all...), ",") + `]}`
		s.send(one, "t1", body).is(`{"pdus":{}}`)
		if !slices.Equal(s.parts.received, want) {
			t.Errorf("got %q", s.parts.received)
		}

		// An owner that refuses does not fail the transaction.
		for _, err := range []error{merr.Forbidden("no"), merr.BadJSON("no"), fmt.Errorf("wrapped: %w", merr.InvalidParam("no"))} {
			s.parts.received, s.parts.eduErr = nil, err
			before := len(s.parts.txns)
			s.send(one, "t2", body).is(`{"pdus":{}}`)
			if len(s.parts.received) != len(all) || len(s.parts.txns) != before+1 {
				t.Errorf("%v: %d EDUs and %d transactions were handed on", err, len(s.parts.received), len(s.parts.txns)-before)
			}
		}
		// One that could not store it does, so that it comes again.
		for _, c := range []struct {
			err    error
			status int
		}{{errors.New("disk full"), 500}, {merr.LimitExceeded("later"), 429}, {merr.New(503, "M_UNKNOWN", "broken"), 503}} {
			s.parts.received, s.parts.eduErr = nil, c.err
			before := len(s.parts.txns)
			if a := s.send(one, "t3", body); a.status != c.status {
				t.Errorf("%v: %d %s", c.err, a.status, a.body)
			}
			if len(s.parts.txns) != before {
				t.Errorf("%v: the transaction was stored all the same", c.err)
			}
		}
	})
}

func TestACLsOnEDUs(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		open, closed := s.newRoom(alice, oscar), s.newRoom(alice, oscar)
		closed.acl(one)
		typing := func(r id.Room) string {
			return fmt.Sprintf(`{"edu_type":"m.typing","content":{"room_id":"%s"}}`, r)
		}
		receipt := func(rooms ...id.Room) string {
			content := map[id.Room]int{}
			for i, r := range rooms {
				content[r] = i
			}
			b, err := json.Marshal(content)
			s.ok(err)
			return `{"edu_type":"m.receipt","content":` + string(b) + `}`
		}
		edus := []string{
			typing(open.id), typing(closed.id), typing("!unknown:one.example"),
			receipt(open.id), receipt(closed.id), receipt(open.id, closed.id), receipt(open.id, "!unknown:one.example"),
		}
		want := []string{
			fmt.Sprintf(`m.typing {"room_id":"%s"}`, open.id), `m.typing {"room_id":"!unknown:one.example"}`,
			fmt.Sprintf(`m.receipt {"%s":0}`, open.id), fmt.Sprintf(`m.receipt {"%s":0}`, open.id),
			fmt.Sprintf(`m.receipt {"%s":0,"!unknown:one.example":1}`, open.id),
		}
		s.send(one, "t1", `{"pdus":[],"edus":[`+strings.Join(edus, ",")+`]}`).is(`{"pdus":{}}`)
		if !slices.Equal(s.parts.received, want) {
			t.Errorf("got  %q\nwant %q", s.parts.received, want)
		}
		s.parts.received = nil
		s.send(two, "t1", `{"pdus":[],"edus":[`+typing(closed.id)+`]}`).is(`{"pdus":{}}`)
		if len(s.parts.received) != 1 {
			t.Errorf("a server that is not denied is ignored: %q", s.parts.received)
		}
		many := make([]id.Room, maxReceiptRooms+1)
		for i := range many {
			many[i] = id.Room(fmt.Sprintf("!r%d:one.example", i))
		}
		s.parts.received = nil
		s.send(one, "t2", `{"pdus":[],"edus":[`+receipt(many...)+`]}`).is(`{"pdus":{}}`)
		if len(s.parts.received) != 0 {
			t.Error("receipts of any number of rooms are taken")
		}
	})
}

// TestRepeatedTransaction sends one transaction many times at once: the room
// server sees one at a time, and all get its answer.
func TestRepeatedTransaction(t *testing.T) {
	onBothSites(t, func(t *testing.T, s *site) {
		var mu sync.Mutex
		inside, most := map[string]int{}, 0
		both := make(chan struct{})
		s.parts.txn = func(req roomapi.Transaction) (map[id.Event]string, error) {
			mu.Lock()
			inside[req.TxnID]++
			most = max(most, inside[req.TxnID])
			if len(inside) == 2 {
				select {
				case <-both:
				default:
					close(both)
				}
			}
			mu.Unlock()
			<-both // another transaction is not held up
			mu.Lock()
			defer mu.Unlock()
			inside[req.TxnID]--
			return map[id.Event]string{"$e": ""}, nil
		}
		var wg sync.WaitGroup
		for i := range 12 {
			txn := fmt.Sprintf("t%d", i%2)
			wg.Go(func() { s.send(one, txn, `{"pdus":[{}]}`).is(`{"pdus":{"$e":{}}}`) })
		}
		wg.Wait()
		if most != 1 {
			t.Errorf("%d at a time", most)
		}
		if n := len(s.server.inTxns.state.running); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

func FuzzParseTransaction(f *testing.F) {
	for _, seed := range []string{
		`{"origin":"a","origin_server_ts":1,"pdus":[{"type":"m.room.message","content":{"body":"x"}}],"edus":[{"edu_type":"m.typing","content":{}}]}`,
		`{}`, `[]`, `null`, `{"pdus":null,"edus":[null]}`, `{"pdus":[1,"x",[]],"PDUS":[]}`, "{\"pdus\":[\"\xff\"]}", `{"pdus":[{"a":1e400}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		txn, err := parseTransaction(body)
		if err != nil {
			var e *merr.Error
			if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Message == "" {
				t.Fatalf("%T %v is no error for the other server", err, err)
			}
			return
		}
		if len(txn.PDUs) > fedclient.MaxPDUs || len(txn.EDUs) > fedclient.MaxEDUs {
			t.Fatalf("%d PDUs, %d EDUs", len(txn.PDUs), len(txn.EDUs))
		}
		// What was read is read again the same.
		again, err := json.Marshal(map[string]any{"pdus": txn.PDUs, "edus": txn.EDUs})
		if err != nil {
			t.Fatal(err)
		}
		second, err := parseTransaction(again)
		if err != nil || len(second.PDUs) != len(txn.PDUs) || len(second.EDUs) != len(txn.EDUs) {
			t.Fatalf("%v: %d and %d parts became %d and %d", err, len(txn.PDUs), len(txn.EDUs), len(second.PDUs), len(second.EDUs))
		}
	})
}
