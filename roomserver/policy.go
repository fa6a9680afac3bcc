package roomserver

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// policyKeyID is the key ID of every policy server.
//
// spec: server-server §26.2 ("always ed25519:policy_server")
const policyKeyID id.KeyID = "ed25519:policy_server"

// policyServer is the policy server of a room.
type policyServer struct {
	via id.Server
	key ed25519.PublicKey
}

const typePolicy = "m.room.policy"

// policyOf gives the policy server that a state names, nil when the room does not
// use one.
//
// spec: server-server §26.1 (Determining if a Policy Server is enabled in a room)
func (s *Server) policyOf(ctx context.Context, room *eventstore.Room, policy *eventstore.Event) (*policyServer, error) {
	if policy == nil || room.NID == 0 {
		return nil, nil
	}
	content := gjson.ParseBytes(policy.Content())
	via, key := content.Get("via"), content.Get("public_keys.ed25519")
	if via.Type != gjson.String || key.Type != gjson.String {
		return nil, nil
	}
	server, err := id.ParseServer(via.Str)
	if err != nil {
		return nil, nil //nolint:nilerr // not a valid policy event: no policy server
	}
	pub, err := canonical.DecodeBase64(key.Str)
	if err != nil || len(pub) != ed25519.PublicKeySize {
		return nil, nil //nolint:nilerr // as above
	}
	in, err := s.store.ServerInRoom(ctx, room.NID, server)
	if err != nil || !in {
		return nil, err
	}
	return &policyServer{via: server, key: pub}, nil
}

// exempt tells whether an event needs no recommendation.
func (p *policyServer) exempt(ev *event.Event) bool {
	return p == nil || ev.Type == typePolicy && ev.IsState && ev.StateKey == ""
}

// recommends tells whether the policy server signed the event.
//
// spec: server-server §26.2 (Validating Policy Server signatures)
func (p *policyServer) recommends(ev *event.Event) bool {
	return ev.VerifySignature(p.via, policyKeyID, p.key) == nil
}

// askPolicy asks the policy server of the room's stored state about an event, unless
// it has signed it. It gives the event with the signature, where there is one.
//
// spec: server-server §26.3 (Asking for a Policy Server signature on an event)
func (s *Server) askPolicy(ctx context.Context, room *eventstore.Room, ev *event.Event) (*event.Event, error) {
	policy, err := s.store.CurrentState(room).Get(ctx, typePolicy, "")
	if err != nil {
		return ev, err
	}
	p, err := s.policyOf(ctx, room, policy)
	if err != nil {
		return ev, err
	}
	if p.exempt(ev) || p.recommends(ev) || p.via == s.cfg.ServerName {
		return ev, nil
	}
	sigs, err := s.cfg.Remote.PolicySign(ctx, p.via, ev.JSON())
	if err != nil {
		return ev, err
	}
	s.metrics.fetched("policy_sign", 1)
	sig, ok := sigs[p.via][policyKeyID]
	if !ok {
		return ev, merr.Forbidden("the room's policy server did not sign the event")
	}
	raw, err := canonical.DecodeBase64(sig)
	if err != nil {
		return ev, fmt.Errorf("%w: %w", merr.Forbidden("the room's policy server answered with something else than a signature"), err)
	}
	return event.ParseStored(canonical.WithSignature(ev.JSON(), string(p.via), policyKeyID, raw), ev.ID, ev.Rules)
}

// byPolicy is step 12: the room's policy server must have signed the event. verdict
// says why the event is soft failed.
func (d *draft) byPolicy(ctx context.Context, in *incoming) (verdict, err error) {
	policy, err := (&roomView{d}).State(ctx, typePolicy, "")
	if err != nil {
		return nil, err
	}
	p, err := d.s.policyOf(ctx, d.room, policy)
	if err != nil || p.exempt(in.ev) || p.recommends(in.ev) {
		return nil, err
	}
	return merr.Forbidden("the room's policy server did not recommend the event"), nil
}
