package fedclient

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"weft/matrix/id"
	"weft/matrix/merr"
)

const joinURI = "PUT " + fed2 + "/send_join/%21r/$e"

func TestSendJoin(t *testing.T) {
	l := newLab(t, nil)
	l.peer(map[string]http.HandlerFunc{
		joinURI: reply(200, ` { "origin": "peer.example", "state": [ {"s": 1} , {"s":2} ], "deep": {"a":[[1,{"b":"]"}],"x"]},
			"auth_chain":[{"c":1}], "event": {"signed":[1]}, "servers_in_room": ["a.example","b.example"] } `),
		joinURI + "?omit_members=true": reply(200, `{"auth_chain":[],"members_omitted":true,"servers_in_room":["a.example"],"state":[]}`),
	})
	var got []string
	res, err := l.client.SendJoin(context.Background(), "peer.example", "!r", "$e", json.RawMessage(`{}`), false, collect(&got))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{`state:{"s": 1}`, `state:{"s":2}`, `auth_chain:{"c":1}`}; !reflect.DeepEqual(got, want) {
		t.Fatalf("events %q, want %q", got, want)
	}
	if want := (&JoinResult{Event: json.RawMessage(`{"signed":[1]}`), ServersInRoom: []id.Server{"a.example", "b.example"}}); !reflect.DeepEqual(res, want) {
		t.Fatalf("result %+v, want %+v", res, want)
	}
	res, err = l.client.SendJoin(context.Background(), "peer.example", "!r", "$e", json.RawMessage(`{}`), true, collect(&got))
	if err != nil || !res.MembersOmitted || len(res.ServersInRoom) != 1 || res.Event != nil {
		t.Fatalf("with members omitted: %+v, %v", res, err)
	}
	stop := errors.New("stop")
	_, err = l.client.SendJoin(context.Background(), "peer.example", "!r", "$e", json.RawMessage(`{}`), false, func(List, json.RawMessage) error { return stop })
	if !errors.Is(err, stop) {
		t.Fatalf("the callback's error became %v", err)
	}
}

func TestSendJoinBadResponses(t *testing.T) {
	many := strings.Repeat(`{"x":1},`, 10)
	cases := map[string]string{
		"no state":             `{"auth_chain":[]}`,
		"no auth chain":        `{"state":[]}`,
		"state twice":          `{"state":[],"auth_chain":[],"state":[]}`,
		"state is an object":   `{"state":{},"auth_chain":[]}`,
		"an event is a number": `{"state":[1],"auth_chain":[]}`,
		"an event is null":     `{"state":[null],"auth_chain":[]}`,
		"cut short":            `{"state":[` + many,
		"cut short at the end": `{"state":[],"auth_chain":[]`,
		"an array":             `[200,{"state":[],"auth_chain":[]}]`,
		"huge event":           `{"state":[{"x":"` + strings.Repeat("x", 2*maxElement) + `"}],"auth_chain":[]}`,
		"huge string":          `{"x":"` + strings.Repeat("x", 2*maxElement) + `","state":[],"auth_chain":[]}`,
		"huge white space":     `{"state":[{}` + strings.Repeat(" ", 4*maxElement) + `],"auth_chain":[]}`,
		"deep":                 `{"x":` + strings.Repeat("[", maxSkipDepth+2) + strings.Repeat("]", maxSkipDepth+2) + `,"state":[],"auth_chain":[]}`,
		"many members":         `{` + manyMembers(200) + `"state":[],"auth_chain":[]}`,
		"wrong type of flag":   `{"state":[],"auth_chain":[],"members_omitted":"yes"}`,
		"wrong type of server": `{"state":[],"auth_chain":[],"servers_in_room":[1]}`,
	}
	for name, body := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			l.peer(map[string]http.HandlerFunc{joinURI: reply(200, body)})
			_, err := l.client.SendJoin(context.Background(), "peer.example", "!r", "$e", json.RawMessage(`{}`), false,
				func(List, json.RawMessage) error { return nil })
			if err == nil || merr.From(err).Status != 502 {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"m%d":1,`, i)
	}
	return b.String()
}

// A room of 50,000 members, 20 MB of JSON, must not be held in memory.
func TestSendJoinMemory(t *testing.T) {
	const members, chain = 50_000, 5_000
	l := newLab(t, nil)
	pdu := `{"type":"m.room.member","state_key":"@user%d:peer.example","content":{"membership":"join"},"x":"` + strings.Repeat("x", 300) + `"}`
	l.peer(map[string]http.HandlerFunc{joinURI: func(w http.ResponseWriter, _ *http.Request) {
		b := bufio.NewWriter(w)
		for _, list := range []struct {
			open  string
			count int
		}{{`{"state":[`, members}, {`],"auth_chain":[`, chain}} {
			b.WriteString(list.open)
			for n := range list.count {
				if n > 0 {
					b.WriteByte(',')
				}
				fmt.Fprintf(b, pdu, n)
			}
		}
		b.WriteString("]}")
		if err := b.Flush(); err != nil {
			t.Error(err)
		}
	}})
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, most := heap(), int64(0)
	count, bytes := map[List]int{}, 0
	_, err := l.client.SendJoin(context.Background(), "peer.example", "!r", "$e", json.RawMessage(`{}`), false, func(list List, pdu json.RawMessage) error {
		count[list]++
		bytes += len(pdu)
		if count[list]%5_000 == 0 {
			most = max(most, heap()-before)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count[State] != members || count[AuthChain] != chain || bytes < 20<<20 {
		t.Fatalf("%v events of %d bytes", count, bytes)
	}
	t.Logf("%d MB of events, at most %d kB more on the heap", bytes>>20, most>>10)
	if most > 4<<20 {
		t.Fatalf("the heap grew by %d bytes", most)
	}
}

func FuzzObjectStream(f *testing.F) {
	for _, s := range []string{`{"state":[{}],"x":[[]]}`, `[200,{"state":[{"a":1}]}]`, `{"state":[1]}`, `{`, `{"a":{"b":[`, `[1`} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, pair bool) {
		o := newObjectStream(strings.NewReader(s))
		var pdus []json.RawMessage
		err := o.object(pair, func(name string) error {
			if name != "state" {
				return o.skip()
			}
			return o.array(1000, func(raw json.RawMessage) error {
				pdus = append(pdus, raw)
				return nil
			})
		})
		for _, p := range pdus {
			if !json.Valid(p) {
				t.Fatalf("%q gave %q", s, p)
			}
		}
		if err != nil || pair {
			return
		}
		// What the stream takes, the whole decoder takes at least as a prefix.
		var whole struct {
			State []json.RawMessage `json:"state"`
		}
		if err := json.NewDecoder(strings.NewReader(s)).Decode(&whole); err != nil {
			t.Fatalf("%q was taken, but %v", s, err)
		}
	})
}
