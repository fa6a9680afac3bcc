package storage

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"weft/internal/fedclient/xmatrix"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// others plays the other servers: one listener and one key for all of them.
type others struct {
	t      testing.TB
	api    *api
	names  []id.Server
	key    ed25519.PrivateKey
	caFile string
	addr   string
	txn    int
}

const keyID = id.KeyID("ed25519:1")

// newOthers starts servers named s0.others.test, s1.others.test, …
func newOthers(t testing.TB, n int) *others {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := &others{t: t, key: key}
	for i := range n {
		o.names = append(o.names, id.Server(fmt.Sprintf("s%d.others.test", i)))
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(o.serve))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{o.certificate()}}
	s.StartTLS()
	t.Cleanup(s.Close)
	o.addr = s.Listener.Addr().String()
	return o
}

// certificate makes one for all servers, and the file of who signed it: itself.
func (o *others) certificate() tls.Certificate {
	o.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		o.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "others.test"}, DNSNames: []string{"*.others.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		o.t.Fatal(err)
	}
	o.caFile = filepath.Join(o.t.TempDir(), "ca.pem")
	if err := os.WriteFile(o.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		o.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// dial leads the servers' names to the listener.
func (o *others) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if host, _, err := net.SplitHostPort(address); err != nil || !strings.HasSuffix(host, ".others.test") {
		return nil, fmt.Errorf("nobody is at %s (%v)", address, err)
	}
	return (&net.Dialer{}).DialContext(ctx, network, o.addr)
}

// serve answers as little as a server must: its keys, and thanks for transactions.
func (o *others) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/_matrix/key/v2/server":
		name := r.Host
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		obj, err := canonical.Marshal(map[string]any{
			"server_name": name, "valid_until_ts": time.Now().AddDate(0, 0, 6).UnixMilli(), "old_verify_keys": map[string]any{},
			"verify_keys": map[string]any{string(keyID): map[string]any{"key": base64.RawStdEncoding.EncodeToString(o.key.Public().(ed25519.PublicKey))}},
		})
		if err == nil {
			obj, err = canonical.SignJSON(obj, name, keyID, o.key)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(obj)
	case strings.HasPrefix(r.URL.Path, "/_matrix/federation/v1/send/"):
		_, _ = w.Write([]byte(`{"pdus":{}}`))
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"errcode":"M_NOT_FOUND","error":"not here"}`))
	}
}

// call sends a signed request.
func (o *others) call(from id.Server, method, uri string, body []byte) (gjson.Result, error) {
	h, err := xmatrix.Sign(method, uri, from, home, body, keyID, o.key)
	if err != nil {
		return gjson.Result{}, err
	}
	req, err := http.NewRequestWithContext(o.t.Context(), method, o.api.base+uri, bytes.NewReader(body))
	if err != nil {
		return gjson.Result{}, err
	}
	req.Header.Set("Authorization", h.String())
	return o.api.send(req)
}

// resident is what the other servers know of a room in which they are.
type resident struct {
	o     *others
	room  id.Room
	rules *event.Rules
	// Auth events of all memberships: the power levels, and of joins the join rules.
	powers, joinRules id.Event
	joins             map[id.User]id.Event
	prev              []id.Event
	depth             int64
}

// enter lets one user of each server join a room, with the handshake.
func (o *others) enter(room string) *resident {
	o.t.Helper()
	r := &resident{o: o, room: id.Room(room), joins: make(map[id.User]id.Event)}
	for _, name := range o.names {
		user := id.User("@first:" + string(name))
		v1 := "/_matrix/federation/v1/make_join/" + url.PathEscape(room) + "/" + url.PathEscape(string(user)) + "?ver=12"
		template, err := o.call(name, http.MethodGet, v1, nil)
		if err != nil {
			o.t.Fatal(err)
		}
		if r.rules, err = event.Version(event.RoomVersion(template.Get("room_version").Str)); err != nil {
			o.t.Fatal(err)
		}
		b, err := event.ParseProto([]byte(template.Get("event").Raw), r.rules)
		if err != nil {
			o.t.Fatal(err)
		}
		b.OriginServerTS = time.Now().UnixMilli()
		join, err := b.Build(name, keyID, o.key)
		if err != nil {
			o.t.Fatal(err)
		}
		v2 := "/_matrix/federation/v2/send_join/" + url.PathEscape(room) + "/" + url.PathEscape(string(join.ID))
		if _, err := o.call(name, http.MethodPut, v2, join.JSON()); err != nil {
			o.t.Fatal(err)
		}
		r.joins[user], r.prev, r.depth = join.ID, []id.Event{join.ID}, join.Depth
		if r.powers == "" {
			r.learn(join.AuthEvents)
		}
	}
	return r
}

// learn asks what the auth events of a join are.
func (r *resident) learn(auth []id.Event) {
	r.o.t.Helper()
	for _, a := range auth {
		res, err := r.o.call(r.o.names[0], http.MethodGet, "/_matrix/federation/v1/event/"+url.PathEscape(string(a)), nil)
		if err != nil {
			r.o.t.Fatal(err)
		}
		switch res.Get("pdus.0.type").Str {
		case "m.room.power_levels":
			r.powers = a
		case "m.room.join_rules":
			r.joinRules = a
		}
	}
}

// follow takes up where the room's own server went on.
func (r *resident) follow(token string) {
	r.o.t.Helper()
	page := r.o.api.must(http.MethodGet, in(string(r.room))+"/messages?dir=b&limit=1", token, "")
	last := page.Get("chunk.0.event_id").Str
	e, err := r.o.call(r.o.names[0], http.MethodGet, "/_matrix/federation/v1/event/"+url.PathEscape(last), nil)
	if err != nil {
		r.o.t.Fatal(err)
	}
	r.prev, r.depth = []id.Event{id.Event(last)}, e.Get("pdus.0.depth").Int()
}

// member is a user's next membership.
type member struct {
	user    id.User
	content string
	leave   bool
}

// change sends membership changes of users of one server in one transaction.
func (r *resident) change(server id.Server, list []member) {
	r.o.t.Helper()
	pdus := make([]json.RawMessage, 0, len(list))
	for _, m := range list {
		key := string(m.user)
		auth := []id.Event{r.powers}
		if !m.leave {
			auth = append(auth, r.joinRules)
		}
		if last, ok := r.joins[m.user]; ok {
			auth = append(auth, last)
		}
		r.depth++
		b := event.Builder{Rules: r.rules, RoomID: r.room, Sender: m.user, Type: "m.room.member", StateKey: &key, Content: []byte(m.content),
			PrevEvents: r.prev, AuthEvents: auth, Depth: r.depth, OriginServerTS: time.Now().UnixMilli()}
		e, err := b.Build(server, keyID, r.o.key)
		if err != nil {
			r.o.t.Fatal(err)
		}
		r.joins[m.user], r.prev = e.ID, []id.Event{e.ID}
		pdus = append(pdus, e.JSON())
	}
	body, err := json.Marshal(map[string]any{"origin": server, "origin_server_ts": time.Now().UnixMilli(), "pdus": pdus})
	if err != nil {
		r.o.t.Fatal(err)
	}
	r.o.txn++
	res, err := r.o.call(server, http.MethodPut, fmt.Sprintf("/_matrix/federation/v1/send/t%d", r.o.txn), body)
	if err != nil {
		r.o.t.Fatal(err)
	}
	res.Get("pdus").ForEach(func(e, answer gjson.Result) bool {
		if why := answer.Get("error").Str; why != "" {
			r.o.t.Fatalf("%s: %s", e.Str, why)
		}
		return true
	})
}
