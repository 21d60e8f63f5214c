// The official Go client at the same work. Reads one request for each line of its input and answers with a line: how often it
// did it, and for how many seconds.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

type request struct {
	Scenario    string `json:"scenario"`
	Concurrency int    `json:"concurrency"`
	Millis      int    `json:"millis"`
	Key         string `json:"key"`
}

type result struct {
	Count   int64     `json:"count"`
	Seconds float64   `json:"seconds"`
	Micros  []float64 `json:"micros,omitempty"`
	Error   string    `json:"error,omitempty"`
}

var ctx = context.Background()

func connect() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{os.Args[1]}, DialTimeout: 5 * time.Second})
}

// One function for each worker: made before the clock starts, then run again and again.
func worker(client *clientv3.Client, scenario string, key string, shared *concurrency.Session) (func() error, func(), error) {
	cycle := func(session *concurrency.Session, name string) error {
		mutex := concurrency.NewMutex(session, name)
		if err := mutex.Lock(ctx); err != nil {
			return err
		}
		return mutex.Unlock(ctx)
	}
	switch scenario {
	case "lock-shared":
		return func() error { return cycle(shared, key) }, func() {}, nil
	case "lock-own":
		return func() error {
			session, err := concurrency.NewSession(client, concurrency.WithTTL(15))
			if err != nil {
				return err
			}
			defer session.Close()
			return cycle(session, key)
		}, func() {}, nil
	case "handoff":
		// Two mutexes of one session on one key are one owner.
		session, err := concurrency.NewSession(client, concurrency.WithTTL(15))
		if err != nil {
			return nil, nil, err
		}
		return func() error { return cycle(session, key) }, func() { session.Close() }, nil
	case "get":
		return func() error { _, err := client.Get(ctx, key); return err }, func() {}, nil
	case "set":
		return func() error { _, err := client.Put(ctx, key, "value"); return err }, func() {}, nil
	}
	return nil, nil, fmt.Errorf("no scenario %q", scenario)
}

func run(client *clientv3.Client, shared *concurrency.Session, r request) (result, error) {
	var count atomic.Int64
	var failed atomic.Value
	var group sync.WaitGroup
	var ready sync.WaitGroup
	start := make(chan struct{})
	var mutex sync.Mutex
	var micros []float64
	for i := 0; i < r.Concurrency; i++ {
		key := r.Key
		if r.Scenario != "handoff" {
			key = fmt.Sprintf("%s/%d", r.Key, i)
		}
		step, end, err := worker(client, r.Scenario, key, shared)
		if err != nil {
			return result{}, err
		}
		group.Add(1)
		ready.Add(1)
		go func() {
			defer group.Done()
			defer end()
			ready.Done()
			<-start
			deadline := time.Now().Add(time.Duration(r.Millis) * time.Millisecond)
			for now := time.Now(); now.Before(deadline); {
				if err := step(); err != nil {
					failed.Store(err)
					return
				}
				after := time.Now()
				if r.Concurrency == 1 {
					mutex.Lock()
					micros = append(micros, float64(after.Sub(now).Microseconds()))
					mutex.Unlock()
				}
				now = after
				count.Add(1)
			}
		}()
	}
	ready.Wait()
	began := time.Now()
	close(start)
	group.Wait()
	if err, ok := failed.Load().(error); ok {
		return result{}, err
	}
	return result{Count: count.Load(), Seconds: time.Since(began).Seconds(), Micros: micros}, nil
}

func main() {
	client, err := connect()
	if err != nil {
		panic(err)
	}
	defer client.Close()
	shared, err := concurrency.NewSession(client, concurrency.WithTTL(15))
	if err != nil {
		panic(err)
	}
	defer shared.Close()
	input := bufio.NewScanner(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for input.Scan() {
		var r request
		if err := json.Unmarshal(input.Bytes(), &r); err != nil {
			panic(err)
		}
		answer, err := run(client, shared, r)
		if err != nil {
			answer = result{Error: err.Error()}
		}
		output.Encode(answer)
	}
}
