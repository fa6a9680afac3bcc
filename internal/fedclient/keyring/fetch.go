package keyring

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"weft/matrix/canonical"
	"weft/matrix/id"
)

const (
	// directConcurrency bounds the servers that are asked at the same time for
	// one caller.
	directConcurrency = 16
	// notariesFirst is how many servers must be missing before the notaries
	// are asked before the servers themselves.
	notariesFirst = 32
	// notaryBatch is how many servers one notary request names.
	notaryBatch = 100
)

var errPaused = errors.New("it was asked a moment ago")

// fetchDirect asks a server for its keys, unless that was done a moment ago,
// and returns what is known afterwards.
func (k *Keyring) fetchDirect(ctx context.Context, server id.Server, st *serverState, longest time.Duration) (*ServerKeys, error) {
	begin := func() error {
		if err := st.begin(&st.direct, k.cfg.Now(), longest); err != nil {
			return fmt.Errorf("not asking %s for its keys: %w", server, err)
		}
		return nil
	}
	// Who may not ask takes no part in a flight: it would end it for those who may.
	if err := begin(); err != nil {
		return st.get(), err
	}
	err := k.share(ctx, "direct "+string(server), func(ctx context.Context) error {
		if err := begin(); err != nil { // another flight has just ended
			return err
		}
		err := k.askServer(ctx, server, st)
		st.done(&st.direct, k.cfg.Now(), err)
		if err != nil && k.cfg.Log != nil {
			k.cfg.Log.WithError(err).WithField("server", server).Debug("cannot fetch signing keys")
		}
		return err
	})
	return st.get(), err
}

func (k *Keyring) askServer(ctx context.Context, server id.Server, st *serverState) error {
	raw, err := k.cfg.Fetcher.ServerKeys(ctx, server)
	if err != nil {
		return err
	}
	fresh, err := Parse(raw, server, k.cfg.Now())
	if err != nil {
		return err
	}
	return k.learn(ctx, st, fresh, true)
}

// fetchNotaries asks the notaries, one after the other, for what is missing.
func (k *Keyring) fetchNotaries(ctx context.Context, missing map[id.Server][]need) error {
	batch := make(map[id.Server][]need, notaryBatch)
	var errs []error
	flush := func() {
		if len(batch) == 0 {
			return
		}
		if err := k.askNotaries(ctx, batch); err != nil {
			errs = append(errs, err)
		}
		clear(batch)
	}
	for server, needs := range missing {
		st, err := k.state(ctx, server)
		if err != nil {
			return err
		}
		if err := st.begin(&st.notary, k.cfg.Now(), maxPause); err != nil {
			errs = append(errs, fmt.Errorf("not asking the notaries for the keys of %s: %w", server, err))
			continue
		}
		batch[server] = needs
		if len(batch) == notaryBatch {
			flush()
		}
	}
	flush()
	return errors.Join(errs...)
}

// askNotaries puts one batch to each notary until nothing is missing.
func (k *Keyring) askNotaries(ctx context.Context, batch map[id.Server][]need) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	var errs []error
	left := batch
	for _, n := range k.cfg.Notaries {
		want := Want{}
		for server, needs := range left {
			if server == n.Server {
				continue
			}
			want[server] = map[id.KeyID]int64{}
			for _, nd := range needs {
				want[server][nd.key] = max(want[server][nd.key], nd.ts)
			}
		}
		if len(want) == 0 {
			continue
		}
		if err := k.askNotary(ctx, n, want); err != nil {
			errs = append(errs, fmt.Errorf("notary %s: %w", n.Server, err))
		}
		next := map[id.Server][]need{}
		for server, needs := range left {
			if st, ok := k.servers.GetIfPresent(server); !ok || !k.met(st.get(), needs) {
				next[server] = needs
			}
		}
		if left = next; len(left) == 0 {
			break
		}
	}
	err := errors.Join(errs...)
	for server, needs := range batch {
		if st, ok := k.servers.GetIfPresent(server); ok {
			outcome := err
			if k.met(st.get(), needs) {
				outcome = nil
			} else if outcome == nil {
				outcome = errors.New("the notaries do not know the key")
			}
			st.done(&st.notary, k.cfg.Now(), outcome)
		}
	}
	return err
}

// askNotary puts one request to one notary and learns what holds up.
func (k *Keyring) askNotary(ctx context.Context, n Notary, want Want) error {
	answers, err := k.cfg.Fetcher.NotaryKeys(ctx, n.Server, want)
	if err != nil {
		return err
	}
	var errs []error
	for _, raw := range answers {
		// An answer for a server that was not asked about is not looked at.
		server := id.Server(gjson.GetBytes(raw, "server_name").String())
		if _, asked := want[server]; !asked {
			continue
		}
		if err := k.takeNotarised(ctx, n, server, raw); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (k *Keyring) takeNotarised(ctx context.Context, n Notary, server id.Server, raw json.RawMessage) error {
	fresh, err := Parse(raw, server, k.cfg.Now())
	if err != nil {
		return err
	}
	if err := k.checkNotary(ctx, n, raw); err != nil {
		return err
	}
	st, err := k.state(ctx, server)
	if err != nil {
		return err
	}
	return k.learn(ctx, st, fresh, false)
}

// checkNotary demands the notary's signature.
//
// spec: server-server §3.3.2 (querying keys through another server)
func (k *Keyring) checkNotary(ctx context.Context, n Notary, raw []byte) error {
	err := errors.New("there is no such signature")
	for _, kid := range canonical.Signatures(raw, string(n.Server)) {
		var pub ed25519.PublicKey
		if pub, err = k.notaryKey(ctx, n, kid); err != nil {
			continue
		}
		if err = canonical.VerifyJSON(raw, string(n.Server), kid, pub); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the signature of the notary %s: %w", n.Server, err)
}

// notaryKey returns a configured key, or one that the notary itself gave.
func (k *Keyring) notaryKey(ctx context.Context, n Notary, kid id.KeyID) (ed25519.PublicKey, error) {
	if len(n.Keys) > 0 {
		if pub, ok := n.Keys[kid]; ok {
			return pub, nil
		}
		return nil, fmt.Errorf("the key %s is not one of those configured", kid)
	}
	st, err := k.state(ctx, n.Server)
	if err != nil {
		return nil, err
	}
	needs := []need{{kid, k.cfg.Now().UnixMilli()}}
	known := st.get()
	if !k.met(known, needs) {
		if known, err = k.fetchDirect(ctx, n.Server, st, maxPause); !k.met(known, needs) {
			return nil, fmt.Errorf("the key %s is not known: %w", kid, err)
		}
	}
	return known.Keys[kid].Public, nil
}

// obtainMany meets the needs for many servers as well as it can.
func (k *Keyring) obtainMany(ctx context.Context, needs map[id.Server][]need) error {
	missing, err := k.missing(ctx, needs)
	if err != nil {
		return err
	}
	passes := []func(context.Context, map[id.Server][]need) error{k.fetchManyDirect}
	if len(k.cfg.Notaries) > 0 {
		if len(missing) > notariesFirst {
			passes = []func(context.Context, map[id.Server][]need) error{k.fetchNotaries, k.fetchManyDirect}
		} else {
			passes = append(passes, k.fetchNotaries)
		}
	}
	var errs []error
	for _, pass := range passes {
		if len(missing) == 0 {
			return nil
		}
		if err := pass(ctx, missing); err != nil {
			errs = append(errs, err)
		}
		if missing, err = k.missing(ctx, missing); err != nil {
			return err
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return errors.Join(errs...)
}

// missing is the part of the needs that is not met.
func (k *Keyring) missing(ctx context.Context, needs map[id.Server][]need) (map[id.Server][]need, error) {
	out := map[id.Server][]need{}
	for server, list := range needs {
		if server == k.cfg.ServerName {
			continue
		}
		st, err := k.state(ctx, server)
		if err != nil {
			return nil, err
		}
		if !k.met(st.get(), list) {
			out[server] = list
		}
	}
	return out, nil
}

func (k *Keyring) fetchManyDirect(ctx context.Context, missing map[id.Server][]need) error {
	var g errgroup.Group
	g.SetLimit(directConcurrency)
	errs := make(chan error, len(missing))
	for server := range missing {
		g.Go(func() error {
			st, err := k.state(ctx, server)
			if err == nil {
				_, err = k.fetchDirect(ctx, server, st, maxPause)
			}
			errs <- err
			return nil
		})
	}
	err := g.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}
